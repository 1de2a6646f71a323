"""Run folders as a page: curves, tables and a comparison of several runs."""
