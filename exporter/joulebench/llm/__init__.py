"""Model servers: what they say (events, readers, reply) and how they are asked (chat, client, http)."""
