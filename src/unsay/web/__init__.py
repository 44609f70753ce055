"""The local viewer: pages over what a lab folder holds. Reads, and writes nothing but the index."""
