"""Files of a repository on the Hugging Face Hub."""
