"""Where the time of a model goes, layer by layer. Its file is run by llama.cpp in this process, without a server."""
