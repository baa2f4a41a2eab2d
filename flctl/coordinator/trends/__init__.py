"""What the fleet was like: a point a minute of every agent, for people to look back at."""
