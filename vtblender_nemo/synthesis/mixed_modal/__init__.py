"""Chats whose text becomes speech in part."""
