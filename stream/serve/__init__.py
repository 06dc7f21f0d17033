"""`nowcart serve`: what nowcart has published, over HTTP: REST, server-sent events and the live page.

A process of its own that reads the output topics and nothing else. Every instance follows all partitions, without a group, so
more instances answer more readers. Two halves: `follow` reads in a thread; everything else runs on one event loop and takes no locks.
"""
