"""The shard format: writer, index, reader, clips and the training loader."""
