"""Drawings made on the server: data in, SVG out. Geometry is in attributes, colour in classes, names are escaped."""
