"""How clients and nodes check the certificate of the node that they call."""

import ssl

from safelight.config import Config, ConfigError


def client_tls(config: Config) -> ssl.SSLContext | None:
    """The context for calling nodes; None where no node is called over TLS. Raises ConfigError."""
    if all(address.scheme == "http" for address in config.addresses.values()):
        return None
    try:
        return ssl.create_default_context(cafile=config.tls_ca)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(f"cannot use tls_ca {config.tls_ca}: {error}") from None
