"""A simulated engine with one pure step core and two shells: virtual time and HTTP."""
