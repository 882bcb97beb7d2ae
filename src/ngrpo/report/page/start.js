startTheme();
startContents();
startGroups();
startConfigurations();
startCharts();
