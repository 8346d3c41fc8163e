"""What travels between stages and to readers: one module per message. Imports nothing of ours."""
