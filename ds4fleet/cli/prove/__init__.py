"""`fab prove`: whether all that ds4-fleet does works on one Mac, which is afterwards as it was before."""
