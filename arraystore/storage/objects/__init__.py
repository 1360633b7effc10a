"""Objects in a bucket or behind a web server, read and written in place.

Importing this package imports none of its modules; they are imported when they are needed, and
obstore with them.
"""
