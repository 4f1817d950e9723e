"""The filesystem side of one attempt: directories, images, the argument vector, logs and products."""
