"""How much of the geometry of sampling a network adds to null models of its data."""
