"""The Broadcast port and asynchronous writes on RabbitMQ."""
