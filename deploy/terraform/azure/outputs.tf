output "cluster" {
  value = azurerm_kubernetes_cluster.main.name
}

output "secrets" {
  description = "what becomes the Secrets acordo-raft and acordo-backends"
  value       = azurerm_key_vault.secrets.vault_uri
}

output "backups" {
  value = azurerm_storage_container.backups.id
}
