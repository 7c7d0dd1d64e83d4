"""The command `lightwatch`: a file a command, and the parts that launch, show and sum up a run."""
