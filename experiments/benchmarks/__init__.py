"""Speed and memory, measured. Each prints Markdown and, with --json FILE, writes its numbers."""
