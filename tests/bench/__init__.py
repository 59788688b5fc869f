"""`make bench`: each figure beside a control measured in the same run, as a ratio. Asserts nothing: machines are noisy."""
