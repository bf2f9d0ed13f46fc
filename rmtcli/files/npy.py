"""NumPy's files, which one thread at a time reads."""

from threading import RLock

#: Held while a file of NumPy's is read. numpy parses headers with :func:`ast.literal_eval`, and in
#: Python 3.11 two threads that do so at once can end in a SystemError about the "AST constructor
#: recursion depth", because the interpreter counts the depth of both together.
ONE_READER = RLock()
