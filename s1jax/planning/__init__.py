"""What a compiled or traced step will do: operations, collectives, buffers; before it is run."""
