"""What a solution costs: norm, stability, significance, volume and code length of free, narrow and broad updates, as rows."""
