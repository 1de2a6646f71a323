"""Preview as a page: the data of rows, packed, and the one HTML file that shows them. Prints nothing."""
