"""Who is told of a verdict: the ZeroMQ topic first."""
