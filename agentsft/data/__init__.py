"""Reading: files of any common format become conversations, or refusals that say why not."""
