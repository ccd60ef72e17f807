"""A model behind HTTP: the interfaces of Ollama's runner and of OpenAI. Needs the extra `server`."""
