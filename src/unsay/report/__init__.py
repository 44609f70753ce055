"""From a lab folder to what a person reads: rows and comparisons (`tables`), Markdown, and tables in a terminal."""
