"""Tables and steps by gradient: what is learned, what for, and the methods that learn it."""
