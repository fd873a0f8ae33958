# The project as an image: `docker build -t embedline .`, then `docker run -v "$PWD/data:/embedline/data" embedline`.
# Not tried: no Docker was at hand when it was written. Its steps are those of tests/test_package.py.
FROM python:3.11-slim

# LightGBM needs OpenMP.
RUN apt-get update && apt-get install --yes --no-install-recommends libgomp1 && rm -rf /var/lib/apt/lists/*

WORKDIR /build
COPY pyproject.toml README.md LICENSE ./
COPY src src
RUN pip install --no-cache-dir . && rm -rf /build

# Artifacts, the MLflow database and the configuration lie in the folder that a command is called in.
RUN useradd --create-home --home-dir /embedline embedline
WORKDIR /embedline
COPY --chown=embedline conf conf
USER embedline
RUN mkdir -p data conf/local
VOLUME /embedline/data

ENTRYPOINT ["embedline"]
CMD ["run"]
