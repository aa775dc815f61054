"""What does whoever sits at the terminal see, and what can they do?

picture     what the daemon says of itself, read from the runtime socket
table       frontends, backends and servers in as many columns as there is room for         pure
document    the same for programs, and its schema                                           pure
status      either of them, or the list of ipvsadm; once or again and again
top         the screen of `pybalancer top`: what stands there, what keys make of it         pure
screen      the same at a terminal, by curses, and the daemon asked beside it
events      what happened, and what happens
steer       drain, maint, ready and weight: of several servers, and until they are empty
reload      what a reload changes, and what came of it
completion  what a shell offers behind Tab
manual      examples and exit statuses of commands, and the man page                        pure
paint       colours, and numbers in few letters
"""
