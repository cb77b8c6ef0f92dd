"""A server of the OpenAI chat completions protocol over the decoding engine."""
