# The package and all that it needs; videos, shards and runs belong in a mounted folder:
#   docker build -t howto-pipeline .
#   docker run --gpus all --shm-size 8g -v "$PWD:/data" howto-pipeline pipeline.extract manifests/howto100m.parquet
FROM python:3.11-slim
# train.compile has kernels compiled
RUN apt-get update && apt-get install -y --no-install-recommends g++ && rm -rf /var/lib/apt/lists/*
COPY pyproject.toml constraints.txt README.md LICENSE /package/
COPY pipeline /package/pipeline
RUN pip install --no-cache-dir -c /package/constraints.txt '/package[slowfast,clip]'
WORKDIR /data
ENTRYPOINT ["python", "-m"]
CMD ["pipeline.demo"]
