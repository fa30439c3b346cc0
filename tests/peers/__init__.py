"""Other people's implementations on trial: plug-ins that use the public contract alone, and a campaign over them."""
