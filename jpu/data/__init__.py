"""What the pipeline reads: record schemas, readers of users' files, splits."""
