echo "library beside it"
