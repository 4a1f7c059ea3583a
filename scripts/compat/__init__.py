"""The table of real tools: what they leave on the mount, and natively."""
