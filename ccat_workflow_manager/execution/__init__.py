"""What happens on the filesystem around one attempt: directories, images, the argument vector, logs and products."""
