"""Where is it now? Names of servers resolved while the daemon runs.

answer    what does a name server say?           pure, with dnspython
asking    how is it asked?                       UDP, then TCP; several, one after the other
lookup    what is known of a name, how long?     pure
places    which record is which server's?        pure
"""
