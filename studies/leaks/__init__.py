"""The study asks which masks leak, which of them ``adaptive`` finds, and what it gains and could gain."""
