"""Files of a shop's past as messages: read, put into event-time order, sent; and the outputs of a whole run written to files."""
