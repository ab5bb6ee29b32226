"""The receiving end: what a vault keeps, and how sites reach it over HTTP."""
