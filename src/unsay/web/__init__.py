"""The local viewer and the HTML report: pages over what a lab folder holds. Nothing is written but the lab's index."""
