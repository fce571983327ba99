"""A model under load: arrivals, the server's scheduler, percentiles, and the box that meets a goal."""
