"""A module that cannot be imported."""

raise NameError("nothing")
