"""One module per stage: files in, files out, no mathematics.

A stage is its function ``run``. Its arguments are the surroundings, the settings, the outputs of the stages
that it reads, named as in :data:`couplet.plan.stages.STAGES`, and ``out``, the file or folder to write. It
writes the record too and returns a message. Each raises UserError if an input is missing, damaged or of
other settings, or ``out`` cannot be written.
"""
