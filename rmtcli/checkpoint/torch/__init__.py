"""Files written by torch, read without torch where they hold nothing unusual.

Importing torch takes longer than the analysis of many networks. A file whose pickle holds
dictionaries, plain values and tensors that fill their storages is read by an unpickler that knows
nothing else; any other file goes to torch's own reader, with ``weights_only=True``. Archives with
programs are read by their tables of weights: ``torch.jit.load`` would compile an archive's code and
``torch.export.load`` build its graph. Files are written by torch.
"""
