"""`make bench-routing`: the router beside every rival, on the same requests, in the twin."""
