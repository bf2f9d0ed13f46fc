"""One command per file, from files to files; this is the only room where the stages meet.

The commands that prune share one conductor: :func:`~rmtcli.pipeline.prepare.prepare` finds the
layers of a checkpoint, calibrates them and fits them; :mod:`~rmtcli.pipeline.decide` turns a goal
into a result; the command makes its report from these values and writes the output. Where ranks are
decided layer by layer, fits are a :class:`~rmtcli.pipeline.fits.FitStream`, which passes once;
where they are decided together, fits are :class:`~rmtcli.pipeline.fits.FittedLayers`, which stay
in memory. The type says which.
"""
