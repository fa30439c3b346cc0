"""One benchmark: stopwatch, cost models, ceilings, standard shapes, who is timed and how what is timed is judged."""
