"""Golden files: segments as format version 1 wrote them, whole and damaged. They stay for ever."""
