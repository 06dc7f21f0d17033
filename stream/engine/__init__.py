"""The pure core: columns in, columns out. No I/O, no clock, no logging in here."""
