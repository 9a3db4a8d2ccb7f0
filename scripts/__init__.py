"""What developers run in a checkout. No part of the package."""
