"""git-annex's external special remote protocol, and nothing about what a remote does with it.

=============  =======================================================================
`lines`        how a message stands on a line: the kinds of parameters, parse and format
`messages`     one class per message, both directions
`session`      who may say what, when; bytes in, events out, no I/O and no threads
`jobs`         the thread-safe face of a session: many jobs, one pair of descriptors
`handler`      what a special remote implements, and how its results become replies
`loop`         descriptors, threads and signals; `loop.serve` is the way in
=============  =======================================================================

The text that all of them cite is "External special remote protocol" and its appendix "async", at
https://git-annex.branchable.com/design/external_special_remote_protocol/ .
"""
